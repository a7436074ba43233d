"""Who calls: API keys, signed tokens, client certificates, and the admin port's own credential."""
