"""What a study asks next and what it remembers (Optuna; no MLflow)."""
