"""What does the same work cost as the tutorials of FastStream and SQLModel do it?

A session and a commit for each message; what follows is published after the commit. There is no inbox and no
outbox: an error or a crash loses messages or says them twice.
"""
