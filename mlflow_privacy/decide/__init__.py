"""What is made of finished audits: policies, gates, comparisons."""
