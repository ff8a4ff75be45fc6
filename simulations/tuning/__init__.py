"""Settings of exploration: searched on an earlier period, confirmed on a later one."""
