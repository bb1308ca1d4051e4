"""The feedback service: people, judges and scripts answer duels over HTTP, apart from every experiment."""
