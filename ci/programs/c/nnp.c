/* `nnp`: says whose rights it has. With the set-user-id bit it has root's, unless it may get no new ones. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	return printf("Effective uid: %d\n", (int)geteuid()) < 0;
}
