"""Bad input on purpose: everything here must be refused clearly, and leave nothing behind."""
