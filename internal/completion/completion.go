// Package completion writes the completions of the gatewarden command for bash, zsh and fish from its tables of verbs and flags.
// Nothing of it is linked into a program: the scripts are files of the repository, which a test of the command writes (make docs)
// and compares.
package completion

import (
	goflag "flag"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/gatewarden/gatewarden/internal/manual"
	"github.com/gatewarden/gatewarden/internal/verb"
)

// word is what can stand at a place of the command line.
type word struct {
	literals   []string // subcommands
	containers bool
	files      bool
}

// flag is a flag of a verb.
type flag struct {
	names []string // with their dashes
	value string   // what its value is called: "D"; "": it has none
	text  string   // one line
}

func (f flag) file() bool { return isFile(f.value) }

// action is a verb.
type action struct {
	name, summary string
	flags         []flag
	args          []word
	repeated      bool // the last of args can come again
}

// isFile tells whether the name of an argument in a usage line stands for a file: "FILE…", "DIR", "TARGET=DIR".
func isFile(name string) bool {
	name = strings.Trim(name, "…")
	return name == "FILE" || name == "DIR" || strings.HasSuffix(name, "=DIR")
}

// read takes what a verb's table and its help say. A flag that the help does not list, or lists otherwise than it is, is an error.
func read(c verb.Command) (action, error) {
	a := action{name: c.Name, summary: c.Summary}
	a.args, a.repeated = arguments(c.Args)
	entries := map[string]manual.Entry{}
	values := map[string]string{}
	for _, e := range manual.Entries(c.Help) {
		for i, name := range strings.Split(e.Names, ", ") {
			name, value, _ := strings.Cut(name, " ")
			if !strings.HasPrefix(name, "-") {
				continue
			}
			if i > 0 && value != "" { // "-n, --lines N"
				first, _, _ := strings.Cut(e.Names, ",")
				values[first] = value
			}
			if _, twice := entries[name]; twice { // the same flag with another form of its value
				if isFile(value) {
					values[name] = value
				}
				continue
			}
			entries[name], values[name] = e, value
		}
	}
	declared := map[string]bool{} // with their dashes: whether it has a value
	c.Flags().VisitAll(func(f *goflag.Flag) {
		b, ok := f.Value.(interface{ IsBoolFlag() bool })
		declared[dashed(f.Name)] = !ok || !b.IsBoolFlag()
	})
	var listed []string
	for name := range declared {
		listed = append(listed, name)
	}
	slices.Sort(listed)
	done := map[string]bool{}
	for _, name := range listed {
		e, known := entries[name]
		switch {
		case done[name]:
			continue
		case !known && (name == "--json" || name == "-q" || name == "--quiet"):
			continue // of every verb; one whose help does not have it has no use for it
		case !known:
			return a, fmt.Errorf("%s: the help does not list the flag %s", c.Name, name)
		}
		f := flag{value: values[name], text: firstSentence(e.Text)}
		for _, n := range strings.Split(e.Names, ", ") {
			n, _, _ = strings.Cut(n, " ")
			hasValue, is := declared[n]
			if !is {
				return a, fmt.Errorf("%s: the help lists %s, which is no flag", c.Name, n)
			}
			if hasValue != (f.value != "") {
				return a, fmt.Errorf("%s: the help shows %s, and the flag is another kind (with a value: %v)", c.Name, e.Names, hasValue)
			}
			f.names = append(f.names, n)
			done[n] = true
		}
		a.flags = append(a.flags, f)
	}
	for name := range entries {
		if _, is := declared[name]; !is {
			return a, fmt.Errorf("%s: the help lists %s, which is no flag", c.Name, name)
		}
	}
	return a, nil
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// literal is a word that is typed as it stands.
var literal = regexp.MustCompile(`^[a-z][a-z-]*$`)

// arguments reads the end of a usage line: "CONTAINER", "verify [CONTAINER | FILE | --all]", "--all | CONTAINER…".
func arguments(usage string) (words []word, repeated bool) {
	usage = strings.NewReplacer("[", "", "]", "", " | ", "|").Replace(usage)
	for _, field := range strings.Fields(usage) {
		var w word
		for _, alternative := range strings.Split(field, "|") {
			name := strings.TrimSuffix(alternative, "…")
			repeated = repeated || name != alternative
			switch {
			case name == "CONTAINER":
				w.containers = true
			case isFile(name):
				w.files = true
			case literal.MatchString(name):
				w.literals = append(w.literals, name)
			}
		}
		words = append(words, w)
	}
	return words, repeated
}

var sentence = regexp.MustCompile(`[.;:] |, so that `)

// firstSentence shortens the meaning of a flag to what fits beside it in a list.
func firstSentence(text string) string {
	if at := sentence.FindStringIndex(text); at != nil {
		text = text[:at[0]]
	}
	return strings.NewReplacer("`", "", "'", "’").Replace(text)
}

func readAll(commands []verb.Command) ([]action, error) {
	var all []action
	for _, c := range commands {
		a, err := read(c)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

const note = "# Completion of gatewarden for %s. Written by make docs from the command's own tables; edits are lost.\n"

// names lists the flags of the action for which keep says yes.
func (a action) names(keep func(flag) bool) []string {
	var names []string
	for _, f := range a.flags {
		if keep(f) {
			names = append(names, f.names...)
		}
	}
	return names
}

// words gives what stands at the places of the arguments, as a shell's words: literals with | between them, @container, @file.
func (a action) words() []string {
	var all []string
	for _, w := range a.args {
		parts := slices.Clone(w.literals)
		if w.containers {
			parts = append(parts, "@container")
		}
		if w.files {
			parts = append(parts, "@file")
		}
		all = append(all, strings.Join(parts, "|"))
	}
	return all
}

// Bash gives the completion for bash. It needs nothing of the package bash-completion.
func Bash(commands []verb.Command) (string, error) {
	all, err := readAll(commands)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, note, "bash")
	b.WriteString(bashHead)
	var verbs []string
	for _, a := range all {
		verbs = append(verbs, a.name)
		more := ""
		if a.repeated {
			more = " more=1"
		}
		fmt.Fprintf(&b, "        %s)\n            flags='%s'\n            files='%s' values='%s'\n            args=(%s)%s ;;\n", a.name,
			strings.Join(a.names(func(flag) bool { return true }), " "),
			strings.Join(a.names(flag.file), " "),
			strings.Join(a.names(func(f flag) bool { return f.value != "" && !f.file() }), " "), quoted(a.words()), more)
	}
	fmt.Fprintf(&b, bashTail, strings.Join(append(verbs, "help"), " "))
	return b.String(), nil
}

func quoted(words []string) string {
	all := make([]string, len(words))
	for i, w := range words {
		all[i] = "'" + w + "'"
	}
	return strings.Join(all, " ")
}

// bashHead and bashTail stand around the table of verbs. COMP_WORDS has --name=value as three words.
const bashHead = `_gatewarden_verb() {
    flags= files= values= args=() more=
    case $1 in
`

const bashTail = `        *) return 1 ;;
    esac
}

_gatewarden() {
    local verbs='%s'
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
            what=${what%%@*}
            COMPREPLY+=($(compgen -W "${what//|/$'\n'}" -- "$current"))
        fi
    fi
}

complete -F _gatewarden gatewarden
`

// Zsh gives the completion for zsh, the function _gatewarden.
func Zsh(commands []verb.Command) (string, error) {
	all, err := readAll(commands)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("#compdef gatewarden\n")
	fmt.Fprintf(&b, note, "zsh")
	b.WriteString(zshHead)
	for _, a := range all {
		fmt.Fprintf(&b, "        '%s:%s'\n", a.name, zshText(a.summary))
	}
	b.WriteString("        'help:what a verb does, its flags and examples'\n" + zshMiddle)
	for _, a := range all {
		fmt.Fprintf(&b, "                %s)\n                    _arguments -s -S", a.name)
		for _, f := range a.flags {
			excluded, spec := "", ""
			if len(f.names) > 1 {
				excluded = "(" + strings.Join(f.names, " ") + ")"
			}
			for _, n := range f.names {
				spec = excluded + n
				if f.value != "" && strings.HasPrefix(n, "--") {
					spec += "="
				}
				spec += "[" + zshText(f.text) + "]"
				switch {
				case f.file():
					spec += ":" + f.value + ":_files"
				case f.value != "":
					spec += ":" + f.value + ": "
				}
				fmt.Fprintf(&b, " \\\n                        '%s'", spec)
			}
		}
		for i, w := range a.args {
			place := fmt.Sprint(i + 1)
			if a.repeated && i == len(a.args)-1 {
				place = "*"
			}
			fmt.Fprintf(&b, " \\\n                        '%s:%s:%s'", place, "argument", w.zsh())
		}
		b.WriteString(" ;;\n")
	}
	b.WriteString(zshTail)
	return b.String(), nil
}

// zsh is the action of _arguments that completes the word.
func (w word) zsh() string {
	var ways []string
	if len(w.literals) > 0 {
		ways = append(ways, "(("+strings.Join(w.literals, " ")+"))")
	}
	if w.containers {
		ways = append(ways, "_gatewarden_containers")
	}
	if w.files {
		ways = append(ways, "_files")
	}
	switch len(ways) {
	case 0:
		return " "
	case 1:
		return strings.NewReplacer("((", "(", "))", ")").Replace(ways[0])
	}
	// _alternative takes each as TAG:TEXT:ACTION.
	var all []string
	for _, way := range ways {
		all = append(all, `"x:x:`+strings.NewReplacer("((", "(", "))", ")").Replace(way)+`"`)
	}
	return "_alternative " + strings.Join(all, " ")
}

func zshText(s string) string {
	return strings.NewReplacer("'", "’", "[", "(", "]", ")", ":", " -").Replace(s)
}

const zshHead = `
_gatewarden_containers() {
    local -a containers
    containers=(${(f)"$(gatewarden ps 2>/dev/null | sed -n '2,$s/[[:space:]].*//p')"})
    compadd -a containers
}

_gatewarden() {
    local curcontext=$curcontext state line
    local -A opt_args
    local -a verbs
    verbs=(
`

const zshMiddle = `    )
    _arguments -C '--config=[settings of the host]:file:_files' '1: :->verb' '*:: :->arguments' && return
    case $state in
        verb) _describe -t verbs verb verbs ;;
        arguments)
            case $words[1] in
                help) _describe -t verbs verb verbs ;;
`

const zshTail = `            esac ;;
    esac
}

if [[ $funcstack[1] == _gatewarden ]]; then
    _gatewarden "$@"
else
    compdef _gatewarden gatewarden
fi
`

// Fish gives the completion for fish.
func Fish(commands []verb.Command) (string, error) {
	all, err := readAll(commands)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, note, "fish")
	valued := []string{"--config"}
	for _, a := range all {
		valued = append(valued, a.names(func(f flag) bool { return f.value != "" })...)
	}
	slices.Sort(valued)
	fmt.Fprintf(&b, fishHead, strings.Join(slices.Compact(valued), " "))
	for _, a := range all {
		fmt.Fprintf(&b, "complete -c gatewarden -n '__gatewarden_at 0' -a %s -d '%s'\n", a.name, fishText(a.summary))
	}
	b.WriteString("complete -c gatewarden -n '__gatewarden_at 0' -a help -d 'what a verb does, its flags and examples'\n")
	for _, a := range all {
		fmt.Fprintf(&b, "\ncomplete -c gatewarden -n '__gatewarden_at 1 help' -a %s\n", a.name)
		for _, f := range a.flags {
			fmt.Fprintf(&b, "complete -c gatewarden -n '__gatewarden_in %s'", a.name)
			for _, n := range f.names {
				if strings.HasPrefix(n, "--") {
					b.WriteString(" -l " + n[2:])
				} else {
					b.WriteString(" -s " + n[1:])
				}
			}
			switch {
			case f.file():
				b.WriteString(" -r -F")
			case f.value != "":
				b.WriteString(" -x")
			}
			fmt.Fprintf(&b, " -d '%s'\n", fishText(f.text))
		}
		for i, w := range a.args {
			at := fmt.Sprintf("'__gatewarden_at %d %s'", i+1, a.name)
			if a.repeated && i == len(a.args)-1 {
				at = fmt.Sprintf("'__gatewarden_from %d %s'", i+1, a.name)
			}
			if len(w.literals) > 0 {
				fmt.Fprintf(&b, "complete -c gatewarden -n %s -a '%s'\n", at, strings.Join(w.literals, " "))
			}
			if w.containers {
				fmt.Fprintf(&b, "complete -c gatewarden -n %s -a '(__gatewarden_containers)'\n", at)
			}
			if w.files {
				fmt.Fprintf(&b, "complete -c gatewarden -n %s -F\n", at)
			}
		}
	}
	return b.String(), nil
}

func fishText(s string) string { return strings.ReplaceAll(s, "'", "’") }

const fishHead = `
function __gatewarden_containers
    gatewarden ps 2>/dev/null | sed -n '2,$s/[[:space:]].*//p'
end

# The words before the cursor that are no flags, nor their values: the verb, then its arguments.
function __gatewarden_words
    set -l words (commandline -opc)
    set -e words[1]
    while set -q words[1]
        switch $words[1]
            case %s
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
`
