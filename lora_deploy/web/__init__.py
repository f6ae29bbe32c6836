"""What any server of ours has: a door that counts and cuts off, polite headers, an orderly stop. It knows no models."""
