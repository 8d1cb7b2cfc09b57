"""What happens to rows: interval, plan, read, score, check, publish."""
