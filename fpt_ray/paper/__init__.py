"""The paper's numbers; its tables and figures from our trials."""
