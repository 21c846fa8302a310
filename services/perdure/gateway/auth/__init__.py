"""Who calls: credentials become a caller, and a caller may do what its scopes say."""
