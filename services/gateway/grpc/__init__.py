"""gRPC's part of the gateway: servicers, error statuses, servers."""
