"""The resources of the service, one module each. A route checks who calls and hands over to the store."""
