"""nibble: federated averaging with updates of 4 or 8 bits a number and equal airtime."""
