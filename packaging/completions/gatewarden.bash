# Completion of gatewarden for bash. Written by make docs from the command's own tables; edits are lost.
_gatewarden_verb() {
    flags= files= values= args=() more=
    case $1 in
        ps)
            flags='--json --probe -q --quiet --timeout'
            files='' values='--timeout'
            args=() ;;
        status)
            flags='--json -q --quiet --timeout'
            files='' values='--timeout'
            args=('@container') ;;
        restart)
            flags='--if-generation --json -q --quiet --reason --request-id --timeout'
            files='' values='--if-generation --reason --request-id --timeout'
            args=('@container') ;;
        recover)
            flags='--if-generation --json -q --quiet --reason --request-id --timeout'
            files='' values='--if-generation --reason --request-id --timeout'
            args=('@container') ;;
        apply)
            flags='--config --dry-run --if-generation --json -q --quiet --reason --request-id --skip-preflight --timeout'
            files='--config' values='--if-generation --reason --request-id --timeout'
            args=('@container') ;;
        rollback)
            flags='--dry-run --if-generation --json -q --quiet --reason --request-id --skip-preflight --timeout --to'
            files='' values='--if-generation --reason --request-id --timeout --to'
            args=('@container') ;;
        generations)
            flags='--diff --json -q --quiet'
            files='' values='--diff'
            args=('@container') ;;
        unlock)
            flags='--for --if-generation --json -q --quiet --reason --request-id --timeout'
            files='' values='--for --if-generation --reason --request-id --timeout'
            args=('@container') ;;
        lock)
            flags='--if-generation --json -q --quiet --reason --request-id --timeout'
            files='' values='--if-generation --reason --request-id --timeout'
            args=('@container') ;;
        probe)
            flags='--json -q --quiet --timeout'
            files='' values='--timeout'
            args=('@container') ;;
        logs)
            flags='-f --follow --json -n --lines -q --quiet --timeout -t --timestamps'
            files='' values='-n --lines --timeout'
            args=('@container') ;;
        receipts)
            flags='--json -n --lines -q --quiet'
            files='' values='-n --lines'
            args=('@container') ;;
        events)
            flags='--all --json -q --quiet --since --timeout'
            files='' values='--since --timeout'
            args=('@container') more=1 ;;
        audit)
            flags='--all --allow-unsigned --json --public-key -q --quiet'
            files='--public-key' values=''
            args=('verify' '@container|@file') ;;
        upgrade-warden)
            flags='--json -q --quiet'
            files='' values=''
            args=('@container') ;;
        metrics)
            flags='--listen -q --quiet --socket-group'
            files='' values='--listen --socket-group'
            args=() ;;
        profile)
            flags='--json -q --quiet'
            files='' values=''
            args=('check' '@file') more=1 ;;
        runtime)
            flags='--cdi --dry-run --file --in-place --json --profile -q --quiet --root --set-default --shim'
            files='--file --root --shim' values='--profile'
            args=('configure|unconfigure' '') ;;
        cdi)
            flags='--output --profile -q --quiet --root'
            files='--output --root' values='--profile'
            args=('generate') ;;
        doctor)
            flags='--address --json -q --quiet'
            files='' values='--address'
            args=() ;;
        version)
            flags='--json'
            files='' values=''
            args=() ;;
        *) return 1 ;;
    esac
}

_gatewarden() {
    local verbs='ps status restart recover apply rollback generations unlock lock probe logs receipts events audit upgrade-warden metrics profile runtime cdi doctor version help'
    local flags files values args more verb= place=0 end= i word
    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    COMPREPLY=()
    if [[ $current == = ]]; then
        current=
    elif [[ $before == = && $COMP_CWORD -gt 1 ]]; then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $word == --config && $verb != apply ]]; then
            [[ ${COMP_WORDS[i + 1]} == = ]] && ((i++))
            ((i++))
        elif [[ -z $verb ]]; then
            [[ $word != -* ]] && verb=$word && _gatewarden_verb "$verb"
        elif [[ -n $end || $word != -* && $word != = ]]; then
            ((place++))
        elif [[ $word == -- ]]; then
            end=1
        elif [[ " $files $values " == *" $word "* ]]; then
            [[ ${COMP_WORDS[i + 1]} == = ]] && ((i++))
            ((i++))
        fi
    done
    local IFS=$'\n'
    if [[ -z $end && $before == --config && $verb != apply || -z $end && " $files " == *" $before "* ]]; then
        compopt -o filenames 2>/dev/null
        COMPREPLY=($(compgen -f -- "$current"))
    elif [[ -z $end && " $values " == *" $before "* ]]; then
        return
    elif [[ -z $verb ]]; then
        COMPREPLY=($(compgen -W "${verbs// /$'\n'}"$'\n'--config -- "$current"))
    elif [[ $verb == help ]]; then
        COMPREPLY=($(compgen -W "${verbs// /$'\n'}" -- "$current"))
    elif [[ -z $end && $current == -* ]]; then
        COMPREPLY=($(compgen -W "${flags// /$'\n'}" -- "$current"))
    else
        if ((place >= ${#args[@]})); then
            [[ -n $more ]] || return
            place=$((${#args[@]} - 1))
        fi
        local what=${args[place]}
        if [[ $what == *@container* ]]; then
            COMPREPLY+=($(compgen -W "$(gatewarden ps 2>/dev/null | sed -n '2,$s/[[:space:]].*//p')" -- "$current"))
        fi
        if [[ $what == *@file* ]]; then
            compopt -o filenames 2>/dev/null
            COMPREPLY+=($(compgen -f -- "$current"))
        fi
        if [[ $what != @* ]]; then
            what=${what%@*}
            COMPREPLY+=($(compgen -W "${what//|/$'\n'}" -- "$current"))
        fi
    fi
}

complete -F _gatewarden gatewarden
