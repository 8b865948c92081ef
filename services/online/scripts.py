"""The Lua that makes a write atomic per entity and view: compare the order, then set.

Stock Feast reads the stored event time, and writes in a second round trip: two writers can lose the newer value.
Orders are compared as three u32 numbers, because Lua compares text by the server's locale and its numbers
hold only 53 bits.
"""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Script:
    """A Lua script and the name under which Redis keeps it."""

    source: str

    @property
    def sha(self) -> str:
        """Hex SHA-1 of the source, the argument of EVALSHA."""
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


FENCE, ZERO, CURRENT = b"fence", b"zero", b"current"
"""Rules of a write: its epoch must not lie below the view's; epoch 0; the view's current epoch."""

WRITE = Script(
    """
-- KEYS: epoch key, entity keys. ARGV: rule, epoch, seconds to live (0 = for ever), number of fields,
-- the fields (order first), then as many values for each entity key. Returns {written, stored epoch or -1}.
local rule, width = ARGV[1], tonumber(ARGV[4])
local stored_epoch = redis.call('GET', KEYS[1])
local current = stored_epoch and tonumber(stored_epoch) or 0
if rule == 'fence' and tonumber(ARGV[2]) < current then
  return {0, current}
end
local live = tonumber(ARGV[3])
local redis_call, parts = redis.call, struct.unpack
local call = {}
for f = 1, width do call[2 * f] = ARGV[4 + f] end
local field, size = ARGV[5], 2 * width + 1
local base, written = 4 + width, 0
for i = 2, #KEYS do
  local key, order = KEYS[i], ARGV[base + 1]
  if rule == 'current' then
    order = struct.pack('>I4', current) .. string.sub(order, 5)
  end
  local wins, stored = true, redis_call('HGET', key, field)
  if stored and stored ~= order then
    local e1, h1, l1 = parts('>I4I4I4', order)
    local e0, h0, l0 = parts('>I4I4I4', stored)
    wins = e1 > e0 or (e1 == e0 and (h1 > h0 or (h1 == h0 and l1 > l0)))
  end
  if wins then
    call[1], call[3] = key, order
    for f = 2, width do call[2 * f + 1] = ARGV[base + f] end
    redis_call('HSET', unpack(call, 1, size))
    if live > 0 then redis_call('EXPIRE', key, live) end
    written = written + 1
  end
  base = base + width
end
return {written, stored_epoch and current or -1}
"""
)

RAISE_EPOCH = Script(
    """
-- KEYS: epoch key. ARGV: epoch. Keeps the larger one and returns it.
local stored = redis.call('GET', KEYS[1])
if stored and tonumber(stored) >= tonumber(ARGV[1]) then return tonumber(stored) end
redis.call('SET', KEYS[1], ARGV[1])
return tonumber(ARGV[1])
"""
)
