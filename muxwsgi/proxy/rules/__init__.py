"""The operator's rules: conditions, actions, and the messages that rules get."""
