"""What tests of nasframe and of its plugins share."""
