"""What watches a PPO run: metrics, the alarm, the logs."""
