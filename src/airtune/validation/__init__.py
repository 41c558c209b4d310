"""Prediction against measurement: server and clients on shaped links of one machine."""
