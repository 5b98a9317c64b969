"""The operator's console on ADMIN_PORT: what is stuck, why, and the forms that mend it."""
