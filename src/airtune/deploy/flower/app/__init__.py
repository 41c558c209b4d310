"""The Flower app that `airtune deploy flower` writes."""
