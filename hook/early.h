// early is the warden that early.c has started; its members are -1 if there is none.
struct early {
	int socket; // the other end is the warden's
	int pid;    // it is a child, and nobody has waited for it
};

extern struct early early;
