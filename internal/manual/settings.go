package manual

// Settings is the format of config.toml, held against its parser like Profile.
var Settings = []Table{{Name: "config.toml", Keys: []Key{
	{Name: "version", Type: "integer", Required: true, Low: "1", High: "1", Meaning: "of this format"},
	{Name: "profile_dir", Type: "path", Default: `"/etc/gatewarden/gateways.d"`, Meaning: "profiles, `NAME.toml`"},
	{Name: "run_dir", Type: "path", Default: `"/run/gatewarden"`, Meaning: "sockets and live state, which go with the container"},
	{Name: "state_dir", Type: "path", Default: `"/var/lib/gatewarden"`, Meaning: "receipts, the audit log, generations, `[[state]]` directories. Not `run_dir`"},
	{Name: "log_dir", Type: "path", Default: `"/var/log/gatewarden"`, Meaning: "what gateways and wardens write. Not `run_dir`"},
	{Name: "hook", Type: "path", Default: `"/usr/libexec/gatewarden/gatewarden-hook"`, Meaning: "the hook's program, which the shim puts into the bundle. Absent there: the one beside the shim"},
	{Name: "audit_key", Type: "path", Meaning: "private key, PEM, root's alone, that signs receipts. Without it they are chained and not signed"},
}}}
