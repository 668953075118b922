"""What does the same work cost as others write it, and in what others have built?"""
