"""Text encoders as releases: judged, loaded, given vectors of every item, and routed to when the last one is there."""
