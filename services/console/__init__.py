"""What has happened, to whom, and how much of it? A read model of all that the services say."""
