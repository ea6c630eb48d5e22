"""Pure logic: plan, cost, placement, scheduler. Driven by events, so that a simulator and Ray drive the same code."""
