"""Take pictures of exports in napari and ImageJ for the documentation.

    xvfb-run -s "-screen 0 1180x760x24" python docs/draw_programs.py VOLUME.zarr IMAGE.tif ROIS.zip ij.jar

draws images/napari.png and images/fiji.png. It needs `pip install "napari[pyqt6]" napari-ome-zarr jpype1`, a
Java with windows, and ij.jar of ImageJ (in Debian's package libij-java).
"""

import argparse
import time
from pathlib import Path

IMAGES = Path(__file__).parent / "images"


def draw_napari(volume: Path) -> None:
    """Draw image and labels of an OME-Zarr in napari."""
    import napari

    viewer = napari.Viewer(show=False)
    viewer.open(volume, plugin="napari-ome-zarr")
    labels = viewer.layers[-1]
    labels.visible, labels.opacity = True, 0.4
    viewer.layers.selection.active = labels
    viewer.dims.set_current_step(0, 0)
    viewer.window._qt_window.resize(1180, 760)
    viewer.reset_view()
    viewer.window.screenshot(IMAGES / "napari.png", canvas_only=False, flash=False)
    viewer.close()


def draw_imagej(image: Path, rois: Path, jar: Path) -> None:
    """Draw an image with ROIs in ImageJ, the core of Fiji."""
    import jpype

    jpype.startJVM(classpath=[str(jar)])
    toolkit = jpype.JClass("java.awt.Toolkit").getDefaultToolkit()
    desktop = jpype.JClass("java.awt.Window")(None)
    desktop.setSize(toolkit.getScreenSize())
    desktop.setBackground(jpype.JClass("java.awt.Color")(225, 228, 232))
    desktop.setVisible(True)
    jpype.JClass("ij.ImageJ")().setLocation(20, 20)
    opened = jpype.JClass("ij.IJ").openImage(str(image))
    opened.show()
    opened.getWindow().setLocation(20, 112)
    canvas = opened.getCanvas()
    for _ in range(3):
        canvas.zoomIn(0, 0)
    manager = jpype.JClass("ij.plugin.frame.RoiManager")()
    manager.setLocation(558, 112)
    manager.runCommand("Open", str(rois))
    manager.runCommand("Associate", "true")
    manager.runCommand(opened, "Show All without labels")
    time.sleep(2)
    rectangle = jpype.JClass("java.awt.Rectangle")(800, 688)
    taken = jpype.JClass("java.awt.Robot")().createScreenCapture(rectangle)
    output = jpype.JClass("java.io.File")(str(IMAGES / "fiji.png"))
    jpype.JClass("javax.imageio.ImageIO").write(taken, "png", output)
    jpype.java.lang.System.exit(0)  # its windows would keep the program running


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("volume", "image", "rois", "jar"):
        parser.add_argument(name, type=lambda path: Path(path).resolve())
    given = parser.parse_args()
    draw_napari(given.volume)
    draw_imagej(given.image, given.rois, given.jar)


if __name__ == "__main__":
    main()
