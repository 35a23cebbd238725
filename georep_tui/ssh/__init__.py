"""A person's ssh, done by paramiko: their configuration, their known hosts, their keys and agent."""
