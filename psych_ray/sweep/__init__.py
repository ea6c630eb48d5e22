"""Pure logic: plan, cost, ledger and scheduler. Driven by events, so that a simulator and Ray drive the same code."""
