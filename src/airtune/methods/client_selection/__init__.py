"""client_selection: who takes part within a deadline, or how soon a share of the weight can end."""
