"""What the services, channels and agencies say to each other: the one place where a message is declared."""
