package gatewaylog

// Name is the name of the log in a container's log directory.
const Name = "gateway.log"
