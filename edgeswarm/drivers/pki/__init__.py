"""The fleet's public-key infrastructure: keys under a passphrase, X.509 certificates, revocation lists."""
