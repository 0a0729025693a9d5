"""Contract tests that any component must pass; third parties run `check_component` on theirs."""
