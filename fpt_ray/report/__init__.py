"""What came of a study, from what it stored: front, confirmation, ledger, pictures."""
