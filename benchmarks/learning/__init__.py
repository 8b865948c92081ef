"""What ways of learning gain and cost, on real logs: each module is a command."""
