# Completion of gatewarden for fish. Written by make docs from the command's own tables; edits are lost.

function __gatewarden_containers
    gatewarden ps 2>/dev/null | sed -n '2,$s/[[:space:]].*//p'
end

# The words before the cursor that are no flags, nor their values: the verb, then its arguments.
function __gatewarden_words
    set -l words (commandline -opc)
    set -e words[1]
    while set -q words[1]
        switch $words[1]
            case --address --config --diff --file --for --if-generation --lines --listen --output --profile --public-key --reason --request-id --root --shim --since --socket-group --timeout --to -n
                set -e words[1]
            case '-*'
            case '*'
                echo -- $words[1]
        end
        set -e words[1]
    end
end

# __gatewarden_at N VERB: N words stand before the cursor, and the first is VERB.
function __gatewarden_at
    set -l words (__gatewarden_words)
    test (count $words) = $argv[1]; or return 1
    test (count $argv) = 1; or test "$words[1]" = $argv[2]
end

function __gatewarden_from
    set -l words (__gatewarden_words)
    test (count $words) -ge $argv[1]; and test "$words[1]" = $argv[2]
end

function __gatewarden_in
    set -l words (__gatewarden_words)
    test "$words[1]" = $argv[1]
end

complete -c gatewarden -f
complete -c gatewarden -n '__gatewarden_at 0' -l config -r -F -d 'settings of the host'
complete -c gatewarden -n '__gatewarden_at 0' -a ps -d 'list the containers that have a gateway'
complete -c gatewarden -n '__gatewarden_at 0' -a status -d 'show the gateway’s state, process, listeners and last action'
complete -c gatewarden -n '__gatewarden_at 0' -a restart -d 'replace the gateway by a new one, with proof'
complete -c gatewarden -n '__gatewarden_at 0' -a recover -d 'replace the gateway only if it is not healthy'
complete -c gatewarden -n '__gatewarden_at 0' -a apply -d 'change the gateway’s configuration, and go back by itself if that fails'
complete -c gatewarden -n '__gatewarden_at 0' -a rollback -d 'go back to a configuration that was there before'
complete -c gatewarden -n '__gatewarden_at 0' -a generations -d 'list the gateway’s configurations, or show how two differ'
complete -c gatewarden -n '__gatewarden_at 0' -a unlock -d 'let the gateway write to its own configuration for a while'
complete -c gatewarden -n '__gatewarden_at 0' -a lock -d 'make the gateway’s configuration read-only again, before its time is over'
complete -c gatewarden -n '__gatewarden_at 0' -a probe -d 'ask the gateway now whether it is ready, and the kernel who listens'
complete -c gatewarden -n '__gatewarden_at 0' -a logs -d 'print what the gateway wrote to its stdout and stderr'
complete -c gatewarden -n '__gatewarden_at 0' -a receipts -d 'list what was done to the gateway, oldest first'
complete -c gatewarden -n '__gatewarden_at 0' -a events -d 'print receipts as they are recorded, without a gap from a given one on'
complete -c gatewarden -n '__gatewarden_at 0' -a audit -d 'verify: check that no receipt was changed, removed or put in'
complete -c gatewarden -n '__gatewarden_at 0' -a upgrade-warden -d 'replace the warden by one of the installed version; the gateway goes on'
complete -c gatewarden -n '__gatewarden_at 0' -a metrics -d 'print the gateways’ metrics for Prometheus, or serve them'
complete -c gatewarden -n '__gatewarden_at 0' -a profile -d 'check FILE: explain every problem of a profile, or what it means'
complete -c gatewarden -n '__gatewarden_at 0' -a runtime -d 'switch gatewarden on in containerd, crio, podman or docker, or off'
complete -c gatewarden -n '__gatewarden_at 0' -a cdi -d 'generate: write a CDI specification, whose devices are profiles'
complete -c gatewarden -n '__gatewarden_at 0' -a doctor -d 'say what this host lacks, each with its remedy'
complete -c gatewarden -n '__gatewarden_at 0' -a version -d 'print this command’s version'
complete -c gatewarden -n '__gatewarden_at 0' -a help -d 'what a verb does, its flags and examples'

complete -c gatewarden -n '__gatewarden_at 1 help' -a ps
complete -c gatewarden -n '__gatewarden_in ps' -l json -d 'a list of what status --json prints, [] when there is none'
complete -c gatewarden -n '__gatewarden_in ps' -l probe -d 'ask every warden to look at its gateway now, side by side'
complete -c gatewarden -n '__gatewarden_in ps' -s q -l quiet -d 'no output, same exit status'
complete -c gatewarden -n '__gatewarden_in ps' -l timeout -x -d 'how long to wait for each warden that is asked (2s)'

complete -c gatewarden -n '__gatewarden_at 1 help' -a status
complete -c gatewarden -n '__gatewarden_in status' -l json -d 'print the result, or {"error"'
complete -c gatewarden -n '__gatewarden_in status' -s q -l quiet -d 'no output, same exit status'
complete -c gatewarden -n '__gatewarden_in status' -l timeout -x -d 'how long to wait for the warden’s answer (2s)'
complete -c gatewarden -n '__gatewarden_at 1 status' -a '(__gatewarden_containers)'

complete -c gatewarden -n '__gatewarden_at 1 help' -a restart
complete -c gatewarden -n '__gatewarden_in restart' -l if-generation -x -d 'refuse unless N is the current generation of the configuration'
complete -c gatewarden -n '__gatewarden_in restart' -l json -d 'print the result, or {"error"'
complete -c gatewarden -n '__gatewarden_in restart' -s q -l quiet -d 'no output, same exit status'
complete -c gatewarden -n '__gatewarden_in restart' -l reason -x -d 'why, for the receipt (at most 1024 bytes)'
complete -c gatewarden -n '__gatewarden_in restart' -l request-id -x -d 'a repeated ID does nothing and gives the first receipt'
complete -c gatewarden -n '__gatewarden_in restart' -l timeout -x -d 'the whole action’s deadline, waiting for its turn included (the profile’s own sum)'
complete -c gatewarden -n '__gatewarden_at 1 restart' -a '(__gatewarden_containers)'

complete -c gatewarden -n '__gatewarden_at 1 help' -a recover
complete -c gatewarden -n '__gatewarden_in recover' -l if-generation -x -d 'refuse unless N is the current generation of the configuration'
complete -c gatewarden -n '__gatewarden_in recover' -l json -d 'print the result, or {"error"'
complete -c gatewarden -n '__gatewarden_in recover' -s q -l quiet -d 'no output, same exit status'
complete -c gatewarden -n '__gatewarden_in recover' -l reason -x -d 'why, for the receipt (at most 1024 bytes)'
complete -c gatewarden -n '__gatewarden_in recover' -l request-id -x -d 'a repeated ID does nothing and gives the first receipt'
complete -c gatewarden -n '__gatewarden_in recover' -l timeout -x -d 'the whole action’s deadline, waiting for its turn included (the profile’s own sum)'
complete -c gatewarden -n '__gatewarden_at 1 recover' -a '(__gatewarden_containers)'

complete -c gatewarden -n '__gatewarden_at 1 help' -a apply
complete -c gatewarden -n '__gatewarden_in apply' -l config -r -F -d 'what the only [[mount]] is to show'
complete -c gatewarden -n '__gatewarden_in apply' -l dry-run -d 'make all checks, print the plan and the differences, and change nothing'
complete -c gatewarden -n '__gatewarden_in apply' -l if-generation -x -d 'refuse unless N is the current generation'
complete -c gatewarden -n '__gatewarden_in apply' -l json -d 'print the result, or {"error"'
complete -c gatewarden -n '__gatewarden_in apply' -s q -l quiet -d 'no output, same exit status'
complete -c gatewarden -n '__gatewarden_in apply' -l reason -x -d 'why, for the receipt and the generation (at most 1024 bytes)'
complete -c gatewarden -n '__gatewarden_in apply' -l request-id -x -d 'a repeated ID does nothing and gives the first receipt'
complete -c gatewarden -n '__gatewarden_in apply' -l skip-preflight -d 'without the profile’s [preflight] command'
complete -c gatewarden -n '__gatewarden_in apply' -l timeout -x -d 'the deadline for proving the new one, waiting for its turn included'
complete -c gatewarden -n '__gatewarden_at 1 apply' -a '(__gatewarden_containers)'

complete -c gatewarden -n '__gatewarden_at 1 help' -a rollback
complete -c gatewarden -n '__gatewarden_in rollback' -l dry-run -d 'make all checks, print the plan and the differences, and change nothing'
complete -c gatewarden -n '__gatewarden_in rollback' -l if-generation -x -d 'refuse unless N is the current generation'
complete -c gatewarden -n '__gatewarden_in rollback' -l json -d 'print the result, or {"error"'
complete -c gatewarden -n '__gatewarden_in rollback' -s q -l quiet -d 'no output, same exit status'
complete -c gatewarden -n '__gatewarden_in rollback' -l reason -x -d 'why, for the receipt (at most 1024 bytes)'
complete -c gatewarden -n '__gatewarden_in rollback' -l request-id -x -d 'a repeated ID does nothing and gives the first receipt'
complete -c gatewarden -n '__gatewarden_in rollback' -l skip-preflight -d 'without the profile’s [preflight] command'
complete -c gatewarden -n '__gatewarden_in rollback' -l timeout -x -d 'the deadline for proving it, waiting for its turn included'
complete -c gatewarden -n '__gatewarden_in rollback' -l to -x -d 'the generation, as generations lists them (the one before the current one)'
complete -c gatewarden -n '__gatewarden_at 1 rollback' -a '(__gatewarden_containers)'

complete -c gatewarden -n '__gatewarden_at 1 help' -a generations
complete -c gatewarden -n '__gatewarden_in generations' -l diff -x -d 'how generation N differs from the one that it was made from'
complete -c gatewarden -n '__gatewarden_in generations' -l json -d 'one JSON object per line'
complete -c gatewarden -n '__gatewarden_in generations' -s q -l quiet -d 'no output, same exit status'
complete -c gatewarden -n '__gatewarden_at 1 generations' -a '(__gatewarden_containers)'

complete -c gatewarden -n '__gatewarden_at 1 help' -a unlock
complete -c gatewarden -n '__gatewarden_in unlock' -l for -x -d 'how long, such as 10m'
complete -c gatewarden -n '__gatewarden_in unlock' -l if-generation -x -d 'refuse unless N is the current generation'
complete -c gatewarden -n '__gatewarden_in unlock' -l json -d 'print the result, or {"error"'
complete -c gatewarden -n '__gatewarden_in unlock' -s q -l quiet -d 'no output, same exit status'
complete -c gatewarden -n '__gatewarden_in unlock' -l reason -x -d 'why, for the receipt, the status and the generation (at most 1024 bytes)'
complete -c gatewarden -n '__gatewarden_in unlock' -l request-id -x -d 'a repeated ID does nothing and gives the first receipt'
complete -c gatewarden -n '__gatewarden_in unlock' -l timeout -x -d 'the deadline for it, waiting for its turn included'
complete -c gatewarden -n '__gatewarden_at 1 unlock' -a '(__gatewarden_containers)'

complete -c gatewarden -n '__gatewarden_at 1 help' -a lock
complete -c gatewarden -n '__gatewarden_in lock' -l if-generation -x -d 'refuse unless N is the current generation'
complete -c gatewarden -n '__gatewarden_in lock' -l json -d 'print the result, or {"error"'
complete -c gatewarden -n '__gatewarden_in lock' -s q -l quiet -d 'no output, same exit status'
complete -c gatewarden -n '__gatewarden_in lock' -l reason -x -d 'why, for the receipt and the generation (at most 1024 bytes)'
complete -c gatewarden -n '__gatewarden_in lock' -l request-id -x -d 'a repeated ID does nothing and gives the first receipt'
complete -c gatewarden -n '__gatewarden_in lock' -l timeout -x -d 'the deadline for it, waiting for its turn included'
complete -c gatewarden -n '__gatewarden_at 1 lock' -a '(__gatewarden_containers)'

complete -c gatewarden -n '__gatewarden_at 1 help' -a probe
complete -c gatewarden -n '__gatewarden_in probe' -l json -d 'print the result, or {"error"'
complete -c gatewarden -n '__gatewarden_in probe' -s q -l quiet -d 'no output, same exit status'
complete -c gatewarden -n '__gatewarden_in probe' -l timeout -x -d 'how long to wait for the answer (10s)'
complete -c gatewarden -n '__gatewarden_at 1 probe' -a '(__gatewarden_containers)'

complete -c gatewarden -n '__gatewarden_at 1 help' -a logs
complete -c gatewarden -n '__gatewarden_in logs' -s f -l follow -d 'go on printing as lines come, until interrupted'
complete -c gatewarden -n '__gatewarden_in logs' -l json -d 'one object per line'
complete -c gatewarden -n '__gatewarden_in logs' -s n -l lines -x -d 'the last N lines (100)'
complete -c gatewarden -n '__gatewarden_in logs' -s q -l quiet -d 'no output, same exit status'
complete -c gatewarden -n '__gatewarden_in logs' -l timeout -x -d 'with -f'
complete -c gatewarden -n '__gatewarden_in logs' -s t -l timestamps -d 'when each line was written (UTC)'
complete -c gatewarden -n '__gatewarden_at 1 logs' -a '(__gatewarden_containers)'

complete -c gatewarden -n '__gatewarden_at 1 help' -a receipts
complete -c gatewarden -n '__gatewarden_in receipts' -l json -d 'the receipts themselves, one JSON object per line'
complete -c gatewarden -n '__gatewarden_in receipts' -s n -l lines -x -d 'the last N receipts (20)'
complete -c gatewarden -n '__gatewarden_in receipts' -s q -l quiet -d 'no output, same exit status'
complete -c gatewarden -n '__gatewarden_at 1 receipts' -a '(__gatewarden_containers)'

complete -c gatewarden -n '__gatewarden_at 1 help' -a events
complete -c gatewarden -n '__gatewarden_in events' -l all -d 'receipts of every container'
complete -c gatewarden -n '__gatewarden_in events' -l json -d 'accepted'
complete -c gatewarden -n '__gatewarden_in events' -s q -l quiet -d 'no output, same exit status'
complete -c gatewarden -n '__gatewarden_in events' -l since -x -d 'first all that come after the receipt with this id, then what is new'
complete -c gatewarden -n '__gatewarden_in events' -l timeout -x -d 'stop after D'
complete -c gatewarden -n '__gatewarden_from 1 events' -a '(__gatewarden_containers)'

complete -c gatewarden -n '__gatewarden_at 1 help' -a audit
complete -c gatewarden -n '__gatewarden_in audit' -l all -d 'the audit log and every container’s journal'
complete -c gatewarden -n '__gatewarden_in audit' -l allow-unsigned -d 'lines without a signature after signed ones are a note, not a break'
complete -c gatewarden -n '__gatewarden_in audit' -l json -d 'one object per log on a line'
complete -c gatewarden -n '__gatewarden_in audit' -l public-key -r -F -d 'verify signatures with this key (PEM, as openssl pkey -pubout writes it)'
complete -c gatewarden -n '__gatewarden_in audit' -s q -l quiet -d 'no output, same exit status'
complete -c gatewarden -n '__gatewarden_at 1 audit' -a 'verify'
complete -c gatewarden -n '__gatewarden_at 2 audit' -a '(__gatewarden_containers)'
complete -c gatewarden -n '__gatewarden_at 2 audit' -F

complete -c gatewarden -n '__gatewarden_at 1 help' -a upgrade-warden
complete -c gatewarden -n '__gatewarden_in upgrade-warden' -l json -d 'print the result, or {"error"'
complete -c gatewarden -n '__gatewarden_in upgrade-warden' -s q -l quiet -d 'no output, same exit status'
complete -c gatewarden -n '__gatewarden_at 1 upgrade-warden' -a '(__gatewarden_containers)'

complete -c gatewarden -n '__gatewarden_at 1 help' -a metrics
complete -c gatewarden -n '__gatewarden_in metrics' -l listen -x -d 'serve on unix:///PATH, tcp://127.0.0.1:PORT or tcp6://[::1]:PORT'
complete -c gatewarden -n '__gatewarden_in metrics' -s q -l quiet -d 'no output, same exit status'
complete -c gatewarden -n '__gatewarden_in metrics' -l socket-group -x -d 'let that group connect to the unix sockets too, which are root’s alone else (0600)'

complete -c gatewarden -n '__gatewarden_at 1 help' -a profile
complete -c gatewarden -n '__gatewarden_in profile' -l json -d 'one object per file on a line'
complete -c gatewarden -n '__gatewarden_in profile' -s q -l quiet -d 'no output, same exit status'
complete -c gatewarden -n '__gatewarden_at 1 profile' -a 'check'
complete -c gatewarden -n '__gatewarden_from 2 profile' -F

complete -c gatewarden -n '__gatewarden_at 1 help' -a runtime
complete -c gatewarden -n '__gatewarden_in runtime' -l cdi -d 'also write (unconfigure'
complete -c gatewarden -n '__gatewarden_in runtime' -l dry-run -d 'only show what would be done'
complete -c gatewarden -n '__gatewarden_in runtime' -l file -r -F -d 'the engine’s configuration, if it is not /etc/containerd/config.toml or /etc/docker/daemon.json'
complete -c gatewarden -n '__gatewarden_in runtime' -l in-place -d 'containerd'
complete -c gatewarden -n '__gatewarden_in runtime' -l json -d '{"engine", "action", "dry_run", "changed", "files"'
complete -c gatewarden -n '__gatewarden_in runtime' -l profile -x -d 'with --cdi'
complete -c gatewarden -n '__gatewarden_in runtime' -s q -l quiet -d 'no output, same exit status'
complete -c gatewarden -n '__gatewarden_in runtime' -l root -r -F -d 'look for every file of the engine’s, and for the profiles, below DIR'
complete -c gatewarden -n '__gatewarden_in runtime' -l set-default -d 'containerd, docker'
complete -c gatewarden -n '__gatewarden_in runtime' -l shim -r -F -d 'the shim’s program'
complete -c gatewarden -n '__gatewarden_at 1 runtime' -a 'configure unconfigure'

complete -c gatewarden -n '__gatewarden_at 1 help' -a cdi
complete -c gatewarden -n '__gatewarden_in cdi' -l output -r -F -d 'write it there, at once, and tell so'
complete -c gatewarden -n '__gatewarden_in cdi' -l profile -x -d 'a profile that is a device, whatever its [select] says'
complete -c gatewarden -n '__gatewarden_in cdi' -s q -l quiet -d 'no output, same exit status'
complete -c gatewarden -n '__gatewarden_in cdi' -l root -r -F -d 'look for the profiles, and for FILE, below DIR'
complete -c gatewarden -n '__gatewarden_at 1 cdi' -a 'generate'

complete -c gatewarden -n '__gatewarden_at 1 help' -a doctor
complete -c gatewarden -n '__gatewarden_in doctor' -l address -x -d 'containerd’s socket (CONTAINERD_ADDRESS, or /run/containerd/containerd.sock)'
complete -c gatewarden -n '__gatewarden_in doctor' -l json -d '{"ok"'
complete -c gatewarden -n '__gatewarden_in doctor' -s q -l quiet -d 'no output, same exit status'

complete -c gatewarden -n '__gatewarden_at 1 help' -a version
complete -c gatewarden -n '__gatewarden_in version' -l json -d '{"version"'
