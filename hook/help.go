package main

// usageLine is what a wrong call is answered with.
const usageLine = "usage: gatewarden-hook createRuntime|poststop [--config FILE] [--namespace NS] [--profile NAME]\n"

// helpText is what --help prints, and what gatewarden-hook(8) is made from.
const helpText = usageLine + `
An OCI runtime calls it, with the container's state on standard input. To control a gateway, use gatewarden.

At createRuntime it installs the container's gateway: it reads the profile, checks that the container's workload could not reach
the gateway, shows the profile's mounts to the container, and starts the container's warden, which is the same program. A container
whose profile is wrong, or whose workload could reach the gateway, is not created: the reason is one line on standard error. A
container that names no profile is left alone.

At poststop it removes what the container has left. What outlives a container, such as its state directories, stays.

  --config FILE      settings of this host (/etc/gatewarden/config.toml, where that is)
  --namespace NS     namespace of the container; without it containerd's, learned from the bundle's path, or else default
  --profile NAME     the gateway's profile; without it that of the annotation io.gatewarden.gateway, if the profile lets an
                     annotation name it. It is for createRuntime only

Both stages have to be hooks of the container, with the same --config and --namespace. containerd-shim-gatewarden-v2 adds them by
itself. By hand, in the bundle's config.json:

  "hooks": {
    "createRuntime": [{
      "path": "/usr/libexec/gatewarden/gatewarden-hook",
      "args": ["gatewarden-hook", "createRuntime", "--profile", "NAME"],
      "timeout": 30
    }],
    "poststop": [{
      "path": "/usr/libexec/gatewarden/gatewarden-hook",
      "args": ["gatewarden-hook", "poststop"],
      "timeout": 30
    }]
  }

It takes nothing from its environment, and keeps none of it. It is run by root.

  gatewarden-hook version

prints the version. Other modes are its own: warden, join, init, and verify, which gatewarden audit verify calls.

Exit status:
  0  done, or nothing to do
  1  refused or failed
  2  usage
`
