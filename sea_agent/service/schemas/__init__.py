"""Request and response bodies, a module for each kind of thing. Field names are the contract."""
