"""What is read: the HTTP application that answers from published predictions."""
