"""Ranked results out, events in: the gRPC service that shoppers' requests reach."""
