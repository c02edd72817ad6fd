"""Monitoring of a PPO run: metrics, the alarm, the logs."""
