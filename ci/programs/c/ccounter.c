/* `ccounter FILE`: 1, 2, 3, ... in FILE, replaced in one step. A restored one goes on where it was captured. */
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char next[4096];

	if (argc != 2 || snprintf(next, sizeof(next), "%s.next", argv[1]) >= (int)sizeof(next))
		return 2;
	for (unsigned long number = 1;; number++) {
		FILE *file = fopen(next, "w");

		if (!file || fprintf(file, "%lu\n", number) < 0 || fclose(file) || rename(next, argv[1])) {
			perror(next);
			return 4;
		}
		usleep(100000);
	}
}
