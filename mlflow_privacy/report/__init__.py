"""Results to bytes: figures, tables and the verdict in words, made from an `AuditResult` alone."""
