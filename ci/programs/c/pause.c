/* `pause`: process 1 of a pod. It waits, reaps whatever it inherits, and ends when asked to. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal)
{
	(void)signal;
	_exit(0);
}

static void reap(int signal)
{
	(void)signal;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

int main(void)
{
	struct sigaction ends = { .sa_handler = end };
	struct sigaction reaps = { .sa_handler = reap, .sa_flags = SA_NOCLDSTOP };

	if (sigaction(SIGTERM, &ends, NULL) || sigaction(SIGINT, &ends, NULL) || sigaction(SIGCHLD, &reaps, NULL))
		return 1;
	for (;;)
		pause();
}
