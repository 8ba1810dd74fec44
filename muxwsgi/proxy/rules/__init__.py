"""What operators say is to be done: conditions, actions, and the messages that rules see."""
