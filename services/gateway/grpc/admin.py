"""freshrank.v1.Admin: thin methods over the operations."""

from collections.abc import Callable
from typing import Any

from freshrank.v1 import models_pb2 as pb
from freshrank.v1 import models_pb2_grpc

from services.gateway.grpc.ranking import Deadlines
from services.gateway.operate import Operations


class AdminServicer(models_pb2_grpc.AdminServicer):
    """The operator's service, on a port of its own."""

    def __init__(self, operations: Operations, deadlines: Deadlines, now_us: Callable[[], int]) -> None:
        self._operations, self._deadlines, self._now_us = operations, deadlines, now_us

    async def ListReleases(self, request: pb.ListReleasesRequest, context: Any) -> pb.ListReleasesResponse:
        """Newest first."""
        return pb.ListReleasesResponse(releases=self._operations.releases())

    async def PromoteRelease(self, request: pb.PromoteReleaseRequest, context: Any) -> pb.Release:
        """Route a held release."""
        return await self._operations.promote(request, self._deadlines.timeout(context))

    async def RollbackRelease(self, request: pb.RollbackReleaseRequest, context: Any) -> pb.Release:
        """Back to an earlier release."""
        return await self._operations.rollback(request, self._deadlines.timeout(context))

    async def SetFreeze(self, request: pb.Freeze, context: Any) -> pb.Freeze:
        """The one freeze switch."""
        return await self._operations.freeze(request, self._deadlines.timeout(context))

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.Status:
        """What is served."""
        return self._operations.status()

    async def GetArms(self, request: pb.GetArmsRequest, context: Any) -> pb.Arms:
        """The arms, and the trial between them."""
        return self._operations.arms()

    async def StartTrial(self, request: pb.StartTrialRequest, context: Any) -> pb.Arms:
        """Compare arms."""
        return await self._operations.start_trial(request, self._deadlines.timeout(context))

    async def StopTrial(self, request: pb.StopTrialRequest, context: Any) -> pb.Arms:
        """End that."""
        return await self._operations.stop_trial(request, self._deadlines.timeout(context))

    async def PromoteArm(self, request: pb.PromoteArmRequest, context: Any) -> pb.Arms:
        """Another incumbent."""
        return await self._operations.promote_arm(request, self._deadlines.timeout(context))

    async def ListEncoders(self, request: pb.ListEncodersRequest, context: Any) -> pb.ListEncodersResponse:
        """Newest decision first."""
        return pb.ListEncodersResponse(encoders=self._operations.encoders())

    async def RollbackEncoder(self, request: pb.RollbackEncoderRequest, context: Any) -> pb.ListEncodersResponse:
        """The encoder before."""
        found = await self._operations.rollback_encoder(request, self._deadlines.timeout(context))
        return pb.ListEncodersResponse(encoders=found)

    async def ForgetUser(self, request: pb.ForgetUserRequest, context: Any) -> pb.ForgetUserResponse:
        """Forget a shopper: answered once the wish is safe on the log."""
        timeout_s = self._deadlines.timeout(context)
        partition, offset = await self._operations.forget(request.user_id, request.before_us, self._now_us(), timeout_s)
        return pb.ForgetUserResponse(partition=partition, offset=offset)
