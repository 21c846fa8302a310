"""Re-fetches the environment right before a destructive act and says whether the premises still hold. Not built yet."""
