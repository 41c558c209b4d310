"""airtune: plan, simulate and really run federated fine-tuning over wireless links."""

__version__ = "0.1.0"
