"""What the account may do and did: orders, masks, fills, charges, equity."""
