"""Search: how well queries are answered, on public judgments."""
