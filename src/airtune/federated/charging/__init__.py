"""The cost of a round: predicted from its parts, charged from what was done."""
